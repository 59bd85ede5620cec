from preparation.synthetic.objects import main

if __name__ == "__main__":
    main()
